"""One batch of a written file, by ms-swift itself; run in its own environment and in the image folder.

python load_ms_swift.py MODEL FILE MODE      MODE: rlhf or train; prints one line of JSON
"""

import json
import sys

from swift import get_model_processor, get_template
from swift.dataset import load_dataset

model_dir, file, mode = sys.argv[1:]
model, processor = get_model_processor(model_dir, model_type="llava1_5_hf", torch_dtype=None, device_map="cpu")
template = get_template(processor, max_length=512)
template.set_mode(mode)
loaded, _ = load_dataset(file, load_from_cache_file=False, strict=True)
encoded = [template.encode(row) for row in loaded]
batch = template.data_collator(encoded)
inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "labels", "pixel_values")}
loss = model(**inputs).loss
labels = [[t for t in row if t != -100] for row in batch["labels"].tolist()]
print(
    json.dumps(
        {
            "rows": len(loaded),
            "trained_on": [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in labels],
            "texts": [processor.tokenizer.decode(row) for row in batch["input_ids"].tolist()],
            "image_tokens": (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>"))
            .sum(-1)
            .tolist(),
            "pixel_values": list(batch["pixel_values"].shape) if "pixel_values" in batch else None,
            "loss": float(loss.detach()),
        }
    )
)
