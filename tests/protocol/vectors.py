"""Test vectors of the key schedule; whoever writes a node of their own can check it against these.

The expected values were made by independent.py beside this file, which shares nothing with the code
under test.
"""

NODE_PRIVATE = bytes(range(1, 33))
GATEWAY_PRIVATE = bytes(range(101, 133))
SALT = bytes(range(200, 232))
TOKEN = "hnt_0123456789abcdefghijklmnopqrstuvwxyz-ABCDEF"
SESSION_ID = "7d0e2f5c-1d2b-4c3a-9e4f-5a6b7c8d9e0f"
HELLO = (
    b'{"type":"hello","protocol_version":"0.1.0","node_name":"web-1",'
    b'"capabilities":["stream/1"],"e2e":true}'
)
HELLO_ACK = b'{"type":"hello_ack","protocol_version":"0.1.0","capabilities":["stream/1"]}'

NODE_PUBLIC = bytes.fromhex("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c")
GATEWAY_PUBLIC = bytes.fromhex("5714769d116bf76436ae74bc793d2c30ad1903c59ac5273805c7e2698b410c36")
SHARED = bytes.fromhex("c9ea6a3f79a000b60b076d4afc990b272f3f0b5aaa3f0b8713c209273e363863")
HANDSHAKE_KEY = bytes.fromhex("b96190e4649583c866f14fb37c4f74762d7974ffcc2f076dcec669d92d897630")
CLIENT_PROOF = bytes.fromhex("ffb4f610bda3c50321312a1208c5759f9ffbb31ed724be67570b72565c1cec20")
SERVER_PROOF = bytes.fromhex("f3875e8e32e55cf508e376c82a814dc9b070d385a58142a6301385c2db976bd9")
SESSION_KEY = bytes.fromhex("548877e2895a41a55bd1acb82a6a36ab2b15456856dc6d877ec3fe49f95613dd")
NODE_STREAM_KEY = bytes.fromhex("056c744f089c2273f90bb24bfd54b891c2fa28408dcc47e4e8da79cd377bf773")
GATEWAY_STREAM_KEY = bytes.fromhex("099ced2c4987fe271df2ce255307716e7c87c35ffefc9dbfc95f8d558f906d4a")

#: X25519 results that are all zero: points of small order, RFC 7748 section 6.1 and
#: https://cr.yp.to/ecdh.html#validate.
SMALL_ORDER_POINTS = (
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
)
