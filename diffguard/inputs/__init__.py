"""Images in the forms in which users have them: files, PIL images, arrays and tensors."""
