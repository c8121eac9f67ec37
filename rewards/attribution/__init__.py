"""Attribution of a model's score to the tokens of a response."""
