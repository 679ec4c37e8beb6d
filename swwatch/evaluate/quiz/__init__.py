"""Multiple choice by option logits: `swwatch quiz`."""
