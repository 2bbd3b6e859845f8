"""The gateway: an OpenAI-compatible server over a defended model, in process or behind another server.

config     the settings of `p2p serve`
schemas    what clients may ask; replies, responses: what they are told, whole and in pieces
door       all that goes in and comes out passes it: limits, policy, cuts, counts; screen: finds the hidden texts
backends   who answers: the model in this process; upstream: another server, asked by completions; scores: what it
           tells of tokens
app        the endpoints; gate: keys, sizes, request ids and every error around them; page: what a browser shows
server     listening and draining; keys, logs, metrics
"""
