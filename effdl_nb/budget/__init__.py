"""What a profile costs: passes, operations, hours, memory and a schedule, beside what was measured."""
