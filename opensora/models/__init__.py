"""The networks: STDiT3, the video autoencoder and the text encoder."""
