"""Evaluation of features and models: zero-shot, retrieval, few-shot and linear-probe tasks."""
