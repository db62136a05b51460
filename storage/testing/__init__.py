"""What only tests need: writers of data sets in the layouts of others."""
