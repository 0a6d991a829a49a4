"""The algorithms, one file each, which compute the credit of every trained token, and the losses they share."""
