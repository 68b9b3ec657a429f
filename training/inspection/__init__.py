"""What a tokenizer keeps of images, and how it uses its codes: measures, report and pictures."""
