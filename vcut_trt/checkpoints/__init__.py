"""Where weights come from: the hub, a folder, a random draw; one file for each model family."""
