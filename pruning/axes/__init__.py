"""The paper's axes, one file each: structure, scoring, allocation, scheduling, fine-tuning."""
