"""The algorithms: a file each, with the credit of every trained token, and the losses they share."""
