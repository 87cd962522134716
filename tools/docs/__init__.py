"""The pages and numbers of the documentation, made from committed result documents."""
