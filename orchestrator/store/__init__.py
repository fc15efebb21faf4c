"""What must survive a crash: balances, settlements, request ids and keys, behind one contract with three stores."""
