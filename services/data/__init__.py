"""What travels between the workers, and where it lies meanwhile.

    wire.py     entries of the queue: names, numbers and blob references, never pixels or tensors
    queue.py    the queue itself on Redis Streams, with ledger.py (its nouns), scripted.py and scripts/*.lua (its
                transactions) and lease.py (whose is a claim)
    letters.py  the dead letters
    blobs.py    the stores of the payloads that entries refer to, with ray_blobs.py, blob_refs.py and orphans.py
    codec.py    trajectories and images to payloads and back (torch)
    weights.py  published weights and the pointer to the latest (torch)
    server.py   the run's own embedded server, and connections to it or to another

Nothing is pickled, and everything here but the learner's checkpoint may be lost: a group is a function of names and
weights, so whatever a crash took is drawn again.
"""
