"""What reads the decoder's hidden vectors."""
