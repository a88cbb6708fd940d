"""Evaluation of models: zero-shot, retrieval, few-shot and linear-probe tasks."""
