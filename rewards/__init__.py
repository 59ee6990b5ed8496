"""Rewards: pictures and their prompts in, one score per picture out.

One reward, one file: `ocr` (is the wanted text readable), `jpeg_size` (how many bits a picture needs), `nsfw` (a
penalty), and the learned `clip_score`, `pick_score`, `aesthetic`, `hps` and `image_reward`. These five stand on
`clip`, `open_clip`, `pixels` and `checkpoints` and need PyTorch, which nothing else here imports.
`reward` holds the protocol and the check every score passes, `build` turns a name from the run file into a
reward, `judge` is the reader held out for evaluation, `exact_match` counts with it. This room knows images
and prompts only: no policy, no latents, no queue. It imports nothing of the other rooms, and importing the
package itself costs nothing; import what you need from its modules.
"""
