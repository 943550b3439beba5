"""What each objective does to outcomes at matched success, without sampling: the anchors, the building, the odds."""
