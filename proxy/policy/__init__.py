"""Rules as pure functions: numbers in, decisions out.

Owns what a request costs and, later, who goes next and how equal the sharing is. Knows no wire format, no clock, no ledger: whoever
calls brings the time and the balances along.
"""
