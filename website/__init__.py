"""Makes the pages of the documentation site: docs/ as it stands, and pages read off the code."""
