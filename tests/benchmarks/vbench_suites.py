"""A suite of two images and a camera movement, and its images: small, but of the structure of VBench's own."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

SUBJECT, BACKGROUND = "a red panda, up close", "a quiet harbour at dawn"
MOVEMENT = f"{BACKGROUND}, camera pans left"
SCORED_BY_BOTH = ["aesthetic_quality", "imaging_quality", "temporal_flickering"]


def entries() -> list[dict[str, object]]:
    return [
        {
            "prompt_en": SUBJECT,
            "image_name": f"{SUBJECT}.jpg",
            "image_type": "animal",
            "dimension": [
                "i2v_subject",
                "subject_consistency",
                "motion_smoothness",
                "dynamic_degree",
                *SCORED_BY_BOTH,
            ],
        },
        {
            "prompt_en": BACKGROUND,
            "image_name": f"{BACKGROUND}.jpg",
            "image_type": "scenery",
            "dimension": ["i2v_background", "background_consistency", *SCORED_BY_BOTH],
        },
        {
            "prompt_en": MOVEMENT,
            "image_name": f"{BACKGROUND}.jpg",
            "image_type": "scenery",
            "dimension": ["camera_motion"],
        },
    ]


def write_suite(folder: Path, content: object = None) -> Path:
    path = folder / "vbench2_i2v_full_info.json"
    path.write_text(json.dumps(entries() if content is None else content), encoding="utf-8")
    return path


def write_crops(folder: Path) -> Path:
    crops = folder / "crop"
    (crops / "16-9").mkdir(parents=True)
    for name, colour in ((SUBJECT, "maroon"), (BACKGROUND, "teal")):
        Image.new("RGB", (160, 90), colour).save(crops / "16-9" / f"{name}.jpg")
    return crops
