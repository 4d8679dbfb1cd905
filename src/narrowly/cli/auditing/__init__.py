"""Commands that review other people's pipelines and explain their optimisers."""
