"""What agents are made of: kinds of tasks, models, the running program, and the base of every agent."""
