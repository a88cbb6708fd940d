"""Datasets of users: folders, tables, hubs, mixtures."""
