"""One way to turn a conversation into token ids, used for training examples and for live requests alike."""
