"""TCP, sans I/O: RFC 9293's state machine for one connection, and what it is made of.

state.py            the states, and what a connection tells its owner
send_buffer.py      bytes sent or to be sent, until they are acknowledged
receive_window.py   bytes received, and the window to announce
reassembly.py       segments that arrived ahead of their turn
timeout.py          the retransmission timeout
transmitter.py      what is sent, and when: poll, deadline
connection.py       the state machine: on_segment, send, close
initial.py          initial sequence numbers
flow.py             a connection with its addresses, and its frames
"""
