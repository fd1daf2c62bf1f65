"""Reinforcement learning: prompts -> roll-outs -> rewards -> advantages -> clipped updates of the policy."""
