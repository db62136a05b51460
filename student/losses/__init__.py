"""What a student is penalised for, one function per term."""
