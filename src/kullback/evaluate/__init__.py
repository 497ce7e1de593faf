"""Evaluation: what does the model know, and how sure are we?"""
