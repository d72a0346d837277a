"""What adversarial training is made of: trajectories, rewards, the discriminator's step, safeguards."""
