"""Lightning callbacks of training and scoring."""
