"""From a trained model to answers about sound files."""
