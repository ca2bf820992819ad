"""Queues: samples of outputs for people to grade blind, from which the rest can be told."""
