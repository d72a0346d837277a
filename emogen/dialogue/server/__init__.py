"""`emogen serve`: replies over HTTP as the OpenAI API shapes them. `run` starts it, `app` puts its parts together."""
