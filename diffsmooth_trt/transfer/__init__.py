"""Certificates for another engine of a certified network, from the run's votes and a few draws that both see."""
