"""The example town: situations made from a seed, a scripted teacher that plays the roles, what they leave.

It gives sessions with known outcomes to the demo and the tests, the text that the tiny base is
pre-trained on, and the held-out cases of the built-in suites.
"""
