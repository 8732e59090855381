"""Evaluation tasks: what is measured of the model while it trains. The Evaluator callback says when.

A task is one file in this folder with a subclass of `EvaluationTask`; it is found by itself.

    base.py              the interface
    validation_loss.py   loss and perplexity of the validation rows
    probes.py            made-up questions: log-likelihoods of answers, scores of generated ones
"""
