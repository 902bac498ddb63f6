"""What each way to save work costs on the trained miniature, against the true video and against stock."""
