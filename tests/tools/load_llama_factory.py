"""One batch of a written file, by LLaMA-Factory itself; run in its own environment, prints one line of JSON.

python load_llama_factory.py MODEL DATASET_DIR DATASET STAGE MEDIA_DIR      STAGE: dpo or sft
"""

import json
import sys

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.data.collator import PairwiseDataCollatorWithPadding, SFTDataCollatorWith4DAttentionMask
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer

model_dir, dataset_dir, dataset, stage, media_dir = sys.argv[1:]
model_args, data_args, training_args, finetuning_args, _ = get_train_args(
    {
        "model_name_or_path": model_dir,
        "dataset_dir": dataset_dir,
        "dataset": dataset,
        "media_dir": media_dir,
        "stage": stage,
        "template": "llava",
        "finetuning_type": "full",
        "do_train": True,
        "output_dir": f"{dataset_dir}/lf-{stage}",
        "overwrite_cache": True,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "cutoff_len": 512,
    }
)
parts = load_tokenizer(model_args)
tokenizer = parts["tokenizer"]
template = get_template_and_fix_tokenizer(tokenizer, data_args)
loaded = get_dataset(template, model_args, data_args, training_args, stage="rm" if stage == "dpo" else "sft", **parts)[
    "train_dataset"
]
model = load_model(tokenizer, model_args, finetuning_args, True)
collator_class = PairwiseDataCollatorWithPadding if stage == "dpo" else SFTDataCollatorWith4DAttentionMask
batch = collator_class(template=template, model=model, label_pad_token_id=-100, **parts)([*loaded])
labels = [[t for t in row if t != -100] for row in batch["labels"].tolist()]
loss = model(**batch).loss
print(
    json.dumps(
        {
            "rows": len(loaded),
            "trained_on": [tokenizer.decode(row, skip_special_tokens=True).strip() for row in labels],
            "texts": [tokenizer.decode(row, skip_special_tokens=False) for row in batch["input_ids"].tolist()],
            "image_tokens": (batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum(-1).tolist(),
            "pixel_values": list(batch["pixel_values"].shape) if "pixel_values" in batch else None,
            "loss": float(loss.detach()),
        }
    )
)
