"""Image encoders with weights from elsewhere, which image teachers and the student build on."""
