"""Makes minilm_hidden_states.npz: what Hugging Face's BertModel computes with all-MiniLM-L6-v2.

    python make_minilm_hidden_states.py HF_DIR

Needs Python 3.11, torch==2.13.0 and transformers==4.57.6. The tests need none of them.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

OUTPUT = pathlib.Path(__file__).parent / "minilm_hidden_states.npz"
TEXTS = [
    ("The battery lasts two days, which is more than I hoped for.",),
    ("Is it waterproof?", "It survived a whole summer at the beach."),
    ("naïve Café 手机 unbelievably cheap",),
    ("He said no.", "He refused."),
]


def main(hf_dir: str) -> None:
    tokenizer = transformers.BertTokenizer.from_pretrained(hf_dir)
    rows = [tokenizer(*texts, padding="max_length", max_length=20) for texts in TEXTS]
    inputs = {name: [row[name] for row in rows] for name in rows[0]}
    model = transformers.BertModel.from_pretrained(hf_dir, attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(
            **{name: torch.tensor(value) for name, value in inputs.items()},
            output_hidden_states=True,
        )
    # [1 + num_layers, batch_size, seq_length, hidden_size]: all of it would be 800 kB.
    hidden_states = torch.stack(outputs.hidden_states).numpy()
    np.savez_compressed(
        OUTPUT,
        input_ids=np.array(inputs["input_ids"], np.int32),
        input_mask=np.array(inputs["attention_mask"], np.int32),
        segment_ids=np.array(inputs["token_type_ids"], np.int32),
        first_tokens=hidden_states[:, :, :3, :16],
        mean_magnitude=np.abs(hidden_states).mean(axis=-1),
        pooled=outputs.pooler_output.numpy(),
    )


if __name__ == "__main__":
    main(sys.argv[1])
