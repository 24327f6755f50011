"""The paper's two recipes: refusals the model writes itself, and several questions in one edit."""
