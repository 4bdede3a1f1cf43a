"""The axes of a pruning method, one file each: structure, scoring, allocation, scheduling, fine-tuning."""
