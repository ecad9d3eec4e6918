"""Small sites that the tests of deployments serve with real servers."""
