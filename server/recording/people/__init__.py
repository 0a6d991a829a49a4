"""What people add to the record: their opinions of episodes, and better answers."""
