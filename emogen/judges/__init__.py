"""Models that measure or recognise: emotion classifiers, language models for fluency, encoders for likeness."""
