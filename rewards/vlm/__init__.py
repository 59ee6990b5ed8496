"""Vision-language models as judges, behind any server that speaks OpenAI's chat completions, such as vLLM.

`yes_no`, `rubric`, `pairwise` and `counting` are the rewards; `chat` asks, `answers` remembers, `pictures` and
`templates` make the question. `fake_server` speaks the same protocol without a model. None of them imports PyTorch.
"""
