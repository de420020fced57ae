"""TCP, sans I/O: RFC 9293's state machine for one connection, and what it is made of.

state.py         the states
send_buffer.py   bytes sent or to be sent, until they are acknowledged
reassembly.py    segments that arrived ahead of their turn
timeout.py       the retransmission timeout
connection.py    the state machine: on_segment, send, poll, deadline
"""
