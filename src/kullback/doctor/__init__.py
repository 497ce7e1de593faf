"""`kullback doctor`: another trainer on a source whose floor is known, and its likely bug."""
