"""Labels, mixtures and the space of valence, arousal and dominance."""
