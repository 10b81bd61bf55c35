"""References of a video: what is read, where it goes, and which frames it keeps."""
