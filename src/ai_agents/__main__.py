"""``python -m ai_agents``."""

from ai_agents.cli.run import main

if __name__ == "__main__":
    main()
